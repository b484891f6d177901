"""Readers of input files: PNG, JPEG, DICOM and tables."""
