"""What the commands of ``kdnas bench`` do, a file each."""
