module recipe.invalid/spire

go 1.26

require github.com/spiffe/spire v1.13.3

replace github.com/GoogleCloudPlatform/cloudsql-proxy => github.com/GoogleCloudPlatform/cloudsql-proxy v1.37.8
