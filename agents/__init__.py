"""Search agents; they depend only on the Gymnasium API."""
