# The seeds that the image's templates write are all that cloud-init asks.
mkdir -p etc/cloud/cloud.cfg.d
printf 'datasource_list: [ NoCloud, None ]\n' > etc/cloud/cloud.cfg.d/90_seeds.cfg
rm -f etc/cloud/cloud.cfg.d/90_dpkg.cfg
