"""A folder as an object store: `store` is the adapter, on the file-system port of `filesystem`.

`tag_file` keeps versions and metadata beside the objects; `os_errors` maps errors of the system to those of the port.
"""
