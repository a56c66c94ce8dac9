"""Why is the network brittle: one diagnostic per file, each a `Finding` with named columns and the chance level beside them."""
