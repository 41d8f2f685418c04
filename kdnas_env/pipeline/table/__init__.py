"""What the commands of ``kdnas table`` do, a file each."""
