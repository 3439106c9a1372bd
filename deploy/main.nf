// nextflow run deploy/main.nf --cohort manifests/liver.csv --slides slides --run runs/liver
// Each task is a shard; wsi itself knows what is done, so a task that is run again redoes nothing.
params.shards = 8
params.encoder = 'densenet121'

process TILE {
    cpus 8
    input:
    val shard
    output:
    val shard
    script:
    """
    wsi tile ${file(params.cohort)} --slides ${file(params.slides)} --run ${file(params.run)} \
        --workers ${task.cpus} --shard ${shard}/${params.shards}
    """
}

process EXTRACT {
    input:
    val shard
    output:
    val shard
    script:
    """
    wsi extract ${file(params.run)} --encoder ${params.encoder} --shard ${shard}/${params.shards}
    """
}

process REPORT {
    input:
    val shards
    script:
    """
    wsi report ${file(params.run)}
    """
}

workflow {
    Channel.of(1..(params.shards as int)) | TILE | EXTRACT | collect | REPORT
}
