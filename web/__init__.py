"""The debug page: one file for the browser, and what the service needs to hand it out."""
