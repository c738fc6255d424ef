"""What is protected, however it was registered, and what is not."""
