"""A package, so that the stack which its tests share can end with the last of them."""
