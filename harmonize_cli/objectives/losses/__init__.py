"""The losses, one file each; every module of this folder is found by itself."""
