"""Reading what comes from outside: rasters, DICOM and tables."""
