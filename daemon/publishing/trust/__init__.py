"""Who signed a document, and whether that counts: keys, signatures, the trust policy, freshness and sequence memory."""
