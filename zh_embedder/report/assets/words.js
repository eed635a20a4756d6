"use strict";
// Every word of the page, in both languages. {0}, {1}: what is filled in.

const WORDS = {
  en: {
    report: "evaluation report", theme: "Theme", language: "Language", light: "Light", dark: "Dark",
    skip: "Skip to the verdict", verdict: "Verdict", mean: "mean", before: "before", after: "after",
    tasks: "Task by task", tasksNote: "Main metric of each task, with 95 % bootstrap intervals over its queries. The figure on the right is what {1} gained over {0}; it is coloured if the paired interval excludes zero.",
    tasksNoteBaseline: "Main metric of each task, with 95 % bootstrap intervals over its queries. The figure on the right is how far {1} is above or below {0}; it is coloured if the paired interval excludes zero.",
    tasksNoteOne: "Main metric of each task, with 95 % bootstrap intervals over its queries.",
    rose: "rose", fell: "fell", noise: "within noise", unknown: "no interval", above: "above", below: "below", level: "within noise", versus: "vs", checks: "What to check", conditions: "Measured under different conditions", leftOut: "What the sets lack", cutTexts: "Texts that are cut", canary: "canary",
    training: "Training", metricOverSteps: "Metric over steps", lossPerTask: "Loss per task", step: "step",
    curveHint: "Click a name to hide or show its line.",
    thresholds: "What threshold?", thresholdsNote: "Scores of each query's best positive against its hardest negative (the best key that is not relevant). A score at or above the threshold counts as a match; the threshold shown is the one with the best F1. Scores are not comparable across models or tasks: use the threshold for your own model and task.",
    positives: "positives", negatives: "hardest negatives", highPairs: "matching pairs", lowPairs: "other pairs",
    gradedNote: "Graded pairs, split at the middle of the scale.",
    threshold: "threshold", precision: "precision", recall: "recall", inseparable: "No threshold separates the two well: this one is hardly better than accepting everything.",
    errors: "Query by query", errorsNote: "Queries won, lost and still failing by {0}: {2} compared with {1}. Open one to see the top results of each model.",
    errorsNoteOne: "Queries by {0}. Open one to see the model's top results.",
    won: "Won", lost: "Lost", failing: "Still failing", set: "Task", search: "Search queries and keys",
    suspectsOnly: "only with a suspected false negative", noQueries: "No queries here.", relevant: "relevant", retrieved: "rank {0}", missing: "not among the top results kept",
    positivesOf: "What should be found", morePositives: "{0} more", topOf: "Best {0} keys of", same: "same text as a positive",
    above: "above every positive in both models", suspect: "Suspected false negative",
    shownOf: "{0} of {1} shown", unchangedNote: "{0} queries are unchanged: both models find them.", cutNote: "{0} texts were cut at {1} characters.", boundNote: "This page holds at most {0} queries per class and task, largest changes first.",
    failNote: "Still failing: {0} is 0 for the models shown.",
    metrics: "All figures", metricsNote: "Δ: {1} minus {0}, with a 95 % interval.", metric: "Metric", model: "Model", data: "Set", kind: "Kind", size: "Size",
    sets: "What was measured on", truncated: "Cut by {0}: queries, keys", truncatedNote: "Cut: the share of queries and of keys that exceed a model's maximum length and are truncated. If it is high, raise --query_max_length or --key_max_length.", queries: "queries", keys: "keys", pairs: "pairs", texts: "texts",
    details: "Settings and provenance", settings: "Settings", manifest: "Manifest", expand: "Show",
    retrieval: "retrieval", reranking: "reranking", similarity: "similarity", pair_classification: "pair classification", classification: "classification", clustering: "clustering",
    made: "Made by zh_embedder. Self-contained: nothing on this page is loaded from anywhere.",
    interval: "95 % interval", notMeasured: "—", all: "all",
  },
  zh: {
    report: "评测报告", theme: "主题", language: "语言", light: "浅色", dark: "深色",
    skip: "跳到结论", verdict: "结论", mean: "均值", before: "之前", after: "之后",
    tasks: "逐个任务", tasksNote: "每个任务的主要指标，附按查询自助抽样的 95 % 区间。右侧数字是“{1}”相对“{0}”的变化；配对差值的区间不含零时着色。",
    tasksNoteBaseline: "每个任务的主要指标，附按查询自助抽样的 95 % 区间。右侧数字是“{1}”高于或低于“{0}”的幅度；配对差值的区间不含零时着色。",
    tasksNoteOne: "每个任务的主要指标，附按查询自助抽样的 95 % 区间。",
    rose: "上升", fell: "下降", noise: "噪声之内", unknown: "无区间", above: "高于", below: "低于", level: "噪声之内", versus: "对", checks: "可检查的原因", conditions: "测量条件不同", leftOut: "评测集的缺漏", cutTexts: "被截断的文本", canary: "通用中文",
    training: "训练过程", metricOverSteps: "指标随步数变化", lossPerTask: "各任务的损失", step: "步",
    curveHint: "点击名称可隐藏或显示该曲线。",
    thresholds: "阈值取多少？", thresholdsNote: "每个查询的最佳正例与最难负例（得分最高的不相关候选）的分数分布。得分不低于阈值即视为匹配，阈值取 F1 最高处。不同模型、不同任务的分数不可直接比较，请以自己的模型和任务为准。",
    positives: "正例", negatives: "最难负例", highPairs: "匹配的句对", lowPairs: "其余句对",
    gradedNote: "带分级评分的句对，以评分范围的中点划分。",
    threshold: "阈值", precision: "精确率", recall: "召回率", inseparable: "没有阈值能较好地区分两者：效果与全部接受相差无几。",
    errors: "逐个查询", errorsNote: "按 {0} 比较“{2}”与“{1}”：变好、变差和仍然失败的查询。点开可查看两个模型各自的前几名。",
    errorsNoteOne: "按 {0} 划分的查询。点开可查看模型的前几名。",
    won: "变好", lost: "变差", failing: "仍然失败", set: "任务", search: "搜索查询与候选",
    suspectsOnly: "只看疑似漏标", noQueries: "这里没有查询。", relevant: "相关", retrieved: "第 {0} 名", missing: "未进入保留的前几名",
    positivesOf: "应当找到的", morePositives: "另有 {0} 条", topOf: "前 {0} 名：", same: "与正例文字相同",
    above: "两个模型都将其排在所有正例之前", suspect: "疑似漏标的正例",
    shownOf: "显示 {0} / {1}", unchangedNote: "另有 {0} 个查询没有变化，两个模型都能找到。", cutNote: "{0} 条文本在 {1} 字处截断。", boundNote: "每个任务的每一类最多收录 {0} 个查询，变化大的在前。",
    failNote: "仍然失败：所示模型的 {0} 均为 0。",
    metrics: "全部数字", metricsNote: "Δ：“{1}”减“{0}”，附 95 % 区间。", metric: "指标", model: "模型", data: "评测集", kind: "类型", size: "规模",
    sets: "评测数据", truncated: "{0} 截断：查询、候选", truncatedNote: "截断：超出模型最大长度、因而被截断的查询与候选所占比例。比例偏高时，请调大 --query_max_length 或 --key_max_length。", queries: "查询", keys: "候选", pairs: "句对", texts: "文本",
    details: "设置与来源", settings: "设置", manifest: "清单", expand: "展开",
    retrieval: "检索", reranking: "重排", similarity: "相似度", pair_classification: "句对分类", classification: "分类", clustering: "聚类",
    made: "由 zh_embedder 生成。单文件页面，不加载任何外部内容。",
    interval: "95 % 区间", notMeasured: "—", all: "全部",
  },
};

const METRIC_NAMES = {
  ndcg: "nDCG", mrr: "MRR", recall: "Recall", map: "MAP", precision: "Precision", hit: "Hit",
  spearman: "Spearman", pearson: "Pearson", ap: "AP", f1: "F1", v_measure: "V-measure", accuracy: "Accuracy",
};

const state = { language: "en", theme: "light", set: 0, klass: null, words: "", suspects: false, open: new Set(), hidden: new Set() };

/** The word under a key in the chosen language, its gaps filled. */
function t(key, ...values) {
  const text = WORDS[state.language][key] ?? key;
  return text.replace(/\{(\d)\}/g, (_, n) => String(values[Number(n)]));
}

/** A metric as people write it: ndcg@10 is nDCG@10. */
function metricName(name) {
  const [base, cutoff] = String(name).split("@");
  return (METRIC_NAMES[base] ?? base) + (cutoff ? "@" + cutoff : "");
}
