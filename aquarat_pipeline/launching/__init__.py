"""Starting stages as processes of their own and watching over them."""
