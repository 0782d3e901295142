"""A package, so that the stand-ins which its tests share can end with the last of them."""
