"""Studies of the method, such as how well its proxies predict the final quality."""
