"""A folder of pictures as a dataset: which files make pairs, and what is wrong with them."""
