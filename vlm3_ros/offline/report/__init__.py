"""An evaluated run as one HTML file."""
