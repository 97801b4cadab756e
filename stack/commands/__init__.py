"""The commands of `./headrace`: what each takes, and what it starts."""
