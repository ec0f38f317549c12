"""Sources to shards to tokens. Never imports torch.

sources ──> documents ──> filters ──> shards/{train,val}-NNNNN.jsonl ──> tokenizer ──> tokens/{train,val}.bin
(files,     (text, and     (length,    + sources.jsonl                   (learnt or    + .docs, token_bytes
 stdlib)     its place)     exact       + manifest.json, last             given)        + manifest.json, last
                            duplicates)
"""
