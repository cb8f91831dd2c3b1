"""Everything that leaves the box: signed releases and chunks to the cameras, permitted objects to the cloud."""
