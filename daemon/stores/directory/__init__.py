"""A local folder as an object store.

`store` is the adapter. It acts through the file-system port in `filesystem`. `tag_file` has the
format of the files that hold tags and version ids. `os_errors` maps OSErrors to store errors.
"""
