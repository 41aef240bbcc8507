"""The `talos` command. `main` dispatches, `commands` hold one file each, all printing is `output`'s."""
