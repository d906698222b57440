"""What people see: the terminal and HTML pages."""
