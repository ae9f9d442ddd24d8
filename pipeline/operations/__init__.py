"""What a person may do to a run or a dataset, one function each. Knows no screen: the command line, Python and a page
call the same."""
