"""Model architectures, one file a family; the registry imports a file when one of its models is asked for."""
