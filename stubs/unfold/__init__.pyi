# What we use of django-unfold, which ships no types: for the type checker alone.
