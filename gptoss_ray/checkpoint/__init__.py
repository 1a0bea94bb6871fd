"""What is on disk: the published layouts of gpt-oss, read, checked and written."""
