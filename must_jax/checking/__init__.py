"""Is a teacher read rightly? What it says, as declared, is compared with what other declarations would make of it."""
