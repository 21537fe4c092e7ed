"""What runs in Lambda, a folder each. A function imports nothing of ours from outside its own folder."""
