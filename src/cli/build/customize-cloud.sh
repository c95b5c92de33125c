# The seeds that the image's templates write are all that cloud-init asks.
mkdir -p etc/cloud/cloud.cfg.d
printf 'datasource_list: [ NoCloud, None ]\n' > etc/cloud/cloud.cfg.d/90_seeds.cfg
# cloud-init's own default, en_US.UTF-8, is made by no package here: on Debian 12 its service fails over that.
printf 'locale: C.UTF-8\n' > etc/cloud/cloud.cfg.d/90_locale.cfg
rm -f etc/cloud/cloud.cfg.d/90_dpkg.cfg
