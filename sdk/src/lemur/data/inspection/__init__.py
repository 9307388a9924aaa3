"""Looking at a token mixture: what it holds, what was left out, its sequences as text, and where a document went."""
