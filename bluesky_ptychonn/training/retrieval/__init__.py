"""Phase retrieval: ePIE and its relatives, and whether to believe what they give."""
