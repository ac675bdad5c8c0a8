"""Names of the data sets, for recipes, which are checked before anything is read."""

FOLDER = "folder"  # somebody's own clouds, in one folder a class
LABELLED = "labelled"  # somebody's own scenes, with a class for every point
SCENE_KINDS = ("s3dis", "semantickitti", "nuscenes", "scannet", LABELLED)
