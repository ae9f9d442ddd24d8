"""Operations on a run or a dataset, one function each, without output: the command line and Python call the same."""
