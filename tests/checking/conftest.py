from made_models import function  # noqa: F401
