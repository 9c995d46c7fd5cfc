"""What does a code mean, and what is to be done? Every stable code of Holdfast, with cause, remedy and where it appears."""
