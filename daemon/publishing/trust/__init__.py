"""Trust in stored documents: who signed them, and whether that signature is accepted.

Keys, signatures of publications, the trust policy, freshness and the memory of sequences.
"""
