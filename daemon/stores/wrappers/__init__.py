"""Stores around a store: each adds one behaviour to any adapter and passes everything else on."""
