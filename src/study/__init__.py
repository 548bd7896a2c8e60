"""What the notebooks share: experiments, audit, Table 1, claims, and the runner. ``bioface`` never imports it."""
