"""The Discord side of Imagine Bot, its application service and its command line."""
