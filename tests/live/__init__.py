"""A package, so that the emulators which its tests share can end with the last of them."""
