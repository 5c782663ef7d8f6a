"""The same work on more than one process or machine, by engines that exist."""
