"""What a person looks at: previews, curves, tables. Knows matplotlib; writes image and text files."""
