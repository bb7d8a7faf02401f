"""What the documentation is made with: generated tables, pictures, and the site's hooks."""
