"""What every answer needs: parameters in, JSON and problems out, and the worker that serves them."""
