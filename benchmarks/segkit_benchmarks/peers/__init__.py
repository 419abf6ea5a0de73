"""The same work by other software, as `segkit bench peers` measures it."""
