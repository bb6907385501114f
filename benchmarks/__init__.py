"""Speed beside a peer, in one run."""
