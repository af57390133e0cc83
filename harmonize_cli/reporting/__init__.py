"""One HTML page from run folders, results and scores; and the same charts as files."""
