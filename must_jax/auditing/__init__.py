"""An audit: findings about label columns, and their page."""
