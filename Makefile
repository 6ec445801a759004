# Needs Python >= 3.11 and make, nothing else. `.venv` is made the first time and reused after.
