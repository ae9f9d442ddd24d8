"""The page for people, `tandem ui`: what is in a dataset and its runs, in a browser."""
