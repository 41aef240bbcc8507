"""One file for each command; `talos.cli.main` names them in one table and loads the one that is called."""
